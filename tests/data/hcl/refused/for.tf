# selects: local.amis.x
# refused: is a for expression, { for
locals {
  amis = { for k, v in var.m : k => "ami-0old" }
}
