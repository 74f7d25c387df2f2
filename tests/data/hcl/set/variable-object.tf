# selects: variable.gpu.image.id
variable "gpu" {
  type = object({ image = object({ id = optional(string, "ami-0old") }) })
  default = {
    id = "ami-0old"
    image = {
      name = "x",
      id   = "ami-0old", # here
    }
  }
}
