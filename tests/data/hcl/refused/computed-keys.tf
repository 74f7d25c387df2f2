# selects: local.amis.kr
# refused: there is no kr at
locals {
  amis = {
    (var.region)     = "ami-0old"
    "${var.region}x" = "ami-0old"
  }
}
