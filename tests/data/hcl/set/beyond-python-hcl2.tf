# selects: aws_launch_template.gpu.image_id
locals {
  größe = (1
  - 2)
}
resource "aws_launch_template" "gpu" {
  image_id /* a comment */ = "ami-0old" # here
}
