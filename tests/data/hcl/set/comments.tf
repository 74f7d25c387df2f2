# selects: aws_launch_template.gpu.image_id
resource "aws_launch_template" "gpu" {
  # image_id = "ami-0old"
  // image_id = "ami-0old"
  /* image_id = "ami-0old"
     image_id = "ami-0old" */
  image_id /* "ami-0old" */ = /* "ami-0old" */ "ami-0old" # here, not "ami-0new"
  # image_id = "ami-0old"
}
