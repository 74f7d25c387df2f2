# selects: data.aws_ami.gpu.filter[1].values[0]
data "aws_ami" "gpu" {
  filter {
    name   = "architecture"
    values = ["ami-0old"]
  }
  filter {
    name = "image-id"
    values = [
      # "ami-0old",
      "ami-0old", # here
      "ami-0old", /* "ami-0old" */
    ]
  }
}
