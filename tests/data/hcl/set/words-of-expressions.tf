# selects: aws_launch_template.gpu.for
resource "aws_launch_template" "gpu" {
  if  = true
  for = "ami-0old" # here
  in  = [for x in var.y : x if x != "ami-0old"]
  object = { "for" = "ami-0old", in = 1 }
  minus  = -1
}
