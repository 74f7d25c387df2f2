# selects: var.ami
# refused: is a bool, true
variable "ami" {
  default = true
}
