# selects: aws_launch_template.gpu.image_id
# refused: stands in more than one place
resource "aws_launch_template" "gpu" {
  image_id = "ami-0old"
  image_id = "ami-0old"
}
