# selects: variable.ami
variable "ami" { default = "ami-0old" } # here
variable "other" { default = "ami-0old" }
