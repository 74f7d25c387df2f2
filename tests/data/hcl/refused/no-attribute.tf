# selects: aws_launch_template.gpu.image_id
# refused: there is no image_id at
resource "aws_launch_template" "gpu" {
  image_ids = "ami-0old"
}
