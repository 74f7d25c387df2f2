# selects: variable.ami
variable "ami" {
  type      = string
  sensitive = true
  ephemeral = true
  default   = "ami-0old" # here
}
