# selects: aws_launch_template.gpu.filter.name
# refused: stands in more than one place
resource "aws_launch_template" "gpu" {
  filter { name = "ami-0old" }
  filter { name = "ami-0old" }
}
