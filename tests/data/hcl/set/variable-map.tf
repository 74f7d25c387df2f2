# selects: variable.amis["us-east-1"]
variable "amis" {
  type    = map(string)
  default = { us-west-2 = "ami-0old", "us-east-1" : "ami-0old" } # here is the second only
}
