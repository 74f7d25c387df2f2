# selects: aws_launch_template.gpu.image_id
# refused: is an expression, data
resource "aws_launch_template" "gpu" {
  image_id = data.aws_ami.x.*.id
}
