# selects: local.amis.kr
# refused: there is no kr at
locals {
  amis = {}
}
