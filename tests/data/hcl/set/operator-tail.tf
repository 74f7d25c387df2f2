# selects: aws_launch_template.gpu.image_id
resource "aws_launch_template" "gpu" {
  size     = 1 + 2 # a comment that python-hcl2's span swallows

  # and the next
  image_id = "ami-0old" # here
  last     = var.a ? 1 : 2 # trailing
}
