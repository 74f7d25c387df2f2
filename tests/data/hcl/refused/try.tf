# selects: aws_launch_template.gpu.image_id
# refused: is a function call, try(
resource "aws_launch_template" "gpu" {
  image_id = try(var.x, "ami-0old")
}
