# selects: local.amis["us-east-1"]
locals {
  other = { us-east-1 = "ami-0old" }
}
locals {
  amis = {
    (var.region) = "ami-0old"
    "${var.a}-x" = "ami-0old", eu-west-1 : "ami-0old"
    "us-east-1"  = "ami-0old" # here
    # us-east-1 = "ami-0old"
    us-east-2 = "ami-0old",
  }
}
