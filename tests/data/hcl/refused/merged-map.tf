# selects: local.amis.x
# refused: is a function call, merge({ x = "ami-0old" }), so its x stands elsewhere
locals {
  amis = merge({ x = "ami-0old" })
}
