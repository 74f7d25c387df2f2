# selects: aws_launch_template.gpu.filter[0].name
resource "aws_launch_template" "gpu" {
  dynamic "filter" {
    for_each = var.filters
    content {
      name = "ami-0old"
    }
  }
  filter {
    name = "ami-0old" # here
  }
}
