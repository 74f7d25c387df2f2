# selects: aws_launch_template.gpu.image_id
resource "aws_launch_template" "gpu" {
  name     = "a${"b${c}{"}\"}"
  other    = "%{if var.x == "}"}y%{endif}${~ var.z ~}"
  deep     = "${lookup({ a = "${var.a}" }, "a")}"
  image_id = "ami-0old" # here
}
