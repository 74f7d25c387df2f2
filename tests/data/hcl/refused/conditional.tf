# selects: aws_launch_template.gpu.image_id
# refused: is a conditional, var.own ? "ami-0old"
resource "aws_launch_template" "gpu" {
  image_id = var.own ? "ami-0old" : "ami-1old"
}
