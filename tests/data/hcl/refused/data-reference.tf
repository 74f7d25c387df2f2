# selects: aws_launch_template.gpu.image_id
# refused: is a reference, data.aws_ami.x.id; it is neither a variable nor a local
resource "aws_launch_template" "gpu" {
  image_id = data.aws_ami.x.id
}
