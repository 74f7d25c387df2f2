# selects: var.ami
# refused: is null
variable "ami" {
  default = null
}
