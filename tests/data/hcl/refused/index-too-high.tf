# selects: aws_launch_template.gpu.filter[1].name
# refused: has 1 filter, numbered from 0
resource "aws_launch_template" "gpu" {
  filter { name = "ami-0old" }
}
