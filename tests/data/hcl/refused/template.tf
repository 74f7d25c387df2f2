# selects: aws_launch_template.gpu.image_id
# refused: is a template, "${var.prefix}-ami"
resource "aws_launch_template" "gpu" {
  image_id = "${var.prefix}-ami"
}
