# selects: aws_launch_template.gpu.filter.name
# refused: a dynamic block at
resource "aws_launch_template" "gpu" {
  dynamic "filter" {
    for_each = [1]
    content { name = "ami-0old" }
  }
}
