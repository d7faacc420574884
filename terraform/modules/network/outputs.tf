output "subnet_ids" {
  description = "Private subnet of each zone."
  value       = { for zone, subnet in aws_subnet.private : zone => subnet.id }
}

output "first_zone" {
  description = "Zone of the scheduler, the login node and the endpoints."
  value       = var.availability_zones[0]
}

output "nodes_security_group_id" {
  description = "Security group of scheduler, nodes and shared file system."
  value       = aws_security_group.nodes.id

  # A node that starts before these can't register.
  depends_on = [
    aws_vpc_endpoint.interface,
    aws_vpc_security_group_ingress_rule.nodes_among_themselves,
    aws_vpc_security_group_egress_rule.nodes_among_themselves,
    aws_vpc_security_group_egress_rule.nodes_to_s3,
    aws_vpc_security_group_egress_rule.nodes_to_endpoints,
    aws_vpc_security_group_ingress_rule.endpoints_from_nodes,
  ]
}
