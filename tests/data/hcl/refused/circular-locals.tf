# selects: local.a
# refused: it comes back to
locals {
  a = local.b
  b = local.c
  c = local.b
}
