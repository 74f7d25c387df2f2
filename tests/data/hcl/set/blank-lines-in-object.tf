# selects: local.amis.kr
locals {
  empty = {


  }
  amis = {

    # nothing here yet

    kr = "ami-0old" # here


  }
  list = [


  ]
}
