# selects: aws_launch_template.gpu.image_id
terraform {
  required_version = ">= 1.5"
}
import {
  to = aws_launch_template.gpu
  id = "ami-0old"
}
moved {
  from = aws_launch_template.old
  to   = aws_launch_template.gpu
}
removed {
  from = aws_launch_template.older
  lifecycle { destroy = false }
}
check "image" {
  assert {
    condition     = provider::aws::arn_parse("ami-0old").x == "ami-0old"
    error_message = "ami-0old"
  }
}
resource "aws_launch_template" "gpu" {
  image_id = "ami-0old" # here
}
