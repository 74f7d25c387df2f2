# selects: aws_launch_template.gpu.image_id
# refused: is an expression, (
resource "aws_launch_template" "gpu" {
  image_id = (
    var.own ? "ami-0old" : "ami-1old"
  )
}
