# selects: aws_launch_template.gpu.image_id
# refused: is a conditional, (
resource "aws_launch_template" "gpu" {
  image_id = (
    length(var.id) > 0
  ) ? "ami-0old" : "ami-1old"
}
