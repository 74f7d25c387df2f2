# selects: var.ami
# refused: is an object, {
variable "ami" {
  default = { id = "ami-0old" }
}
