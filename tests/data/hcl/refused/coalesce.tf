# selects: aws_launch_template.gpu.image_id
# refused: is a function call, coalesce(
resource "aws_launch_template" "gpu" {
  image_id = coalesce(var.x, "ami-0old")
}
