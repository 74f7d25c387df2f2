# selects: local.a.x
# refused: stands in more than one place
locals {
  a = { x = "ami-0old", "x" = "ami-0old" }
}
