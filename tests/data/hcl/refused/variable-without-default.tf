# selects: var.ami
# refused: there is no default at
variable "ami" {
  type = string
}
