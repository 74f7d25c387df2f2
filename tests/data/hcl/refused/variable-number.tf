# selects: var.ami
# refused: is a number, -3
variable "ami" {
  default = -3
}
