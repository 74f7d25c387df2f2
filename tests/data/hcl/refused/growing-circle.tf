# selects: local.a
# refused: it comes back to
locals {
  a = local.a.b
}
