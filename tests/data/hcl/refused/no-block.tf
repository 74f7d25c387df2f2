# selects: aws_launch_template.gpu.image_id
# refused: no resource.aws_launch_template.gpu in
resource "aws_launch_template" "gpus" {
  image_id = "ami-0old"
}
