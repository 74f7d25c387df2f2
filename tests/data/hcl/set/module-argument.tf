# selects: module.batch.ami_id
module "batch" {
  source = "./batch"
  ami_id = "ami-0old" # here
}
