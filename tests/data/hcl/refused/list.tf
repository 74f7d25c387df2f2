# selects: var.ami
# refused: is a list, ["ami-0old"]
variable "ami" {
  default = ["ami-0old"]
}
