# selects: aws_launch_template.gpu.image_id
resource "aws_launch_template" "gpu" {
  description = "$${image_id} %%{x} \\"
  quoted      = "\" image_id = \"ami-0old\" { \u00e9 $$"
  image_id    = "ami-0old" # here
}
