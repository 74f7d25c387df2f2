# selects: aws_launch_template.gpu.image_id
resource "aws_launch_template" "gpu" {
  empty = <<EOT
EOT
  trimmed_empty = <<-EOT
    EOT
  decoy = <<EOT
image_id = "ami-0old"
EOTX
 "unbalanced { quotes
EOT
  underscore = <<-_EOT
    ${jsonencode({ image_id = "ami-0old", brace = "}" })}
    $${ not a template
  _EOT
  in_template = <<EOT
${
"EOT"
}
EOT
  image_id = "ami-0old" # here
  after    = <<EOT
image_id = "ami-0old"
EOT
}
