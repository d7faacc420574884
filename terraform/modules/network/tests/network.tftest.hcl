# The variables are those of example.tfvars.

run "defaults" {
  assert {
    condition     = { for zone, s in aws_subnet.private : zone => s.cidr_block } == { "us-east-1b" = "10.71.0.0/19", "us-east-1a" = "10.71.32.0/19" }
    error_message = "subnets are not those of the two zones"
  }

  assert {
    condition     = alltrue([for s in aws_subnet.private : s.map_public_ip_on_launch == false])
    error_message = "a subnet gives public addresses"
  }

  assert {
    condition     = output.first_zone == "us-east-1b" && toset(keys(output.subnet_ids)) == toset(["us-east-1a", "us-east-1b"])
    error_message = "the first zone is not the first one given"
  }

  assert {
    condition     = aws_vpc_endpoint.s3.vpc_endpoint_type == "Gateway" && aws_vpc_endpoint.s3.service_name == "com.amazonaws.us-east-1.s3"
    error_message = "S3 is not reached by a gateway endpoint"
  }

  assert {
    condition     = aws_vpc_endpoint.s3.route_table_ids == toset([aws_route_table.private.id])
    error_message = "no route of the subnets leads to the S3 gateway: nodes could not reach the bucket"
  }

  assert {
    condition = { for zone, a in aws_route_table_association.private : zone => [a.subnet_id, a.route_table_id] } == {
      for zone, s in aws_subnet.private : zone => [s.id, aws_route_table.private.id]
    }
    error_message = "a subnet has not the route table that leads to the S3 gateway"
  }

  # Slurm's ports alone are not enough: Lustre, NFS and EFA go the same way.
  assert {
    condition = alltrue([
      for r in [
        aws_vpc_security_group_ingress_rule.nodes_among_themselves,
        aws_vpc_security_group_egress_rule.nodes_among_themselves,
      ] : r.ip_protocol == "-1" && r.from_port == null && r.to_port == null &&
      r.security_group_id == aws_security_group.nodes.id && r.referenced_security_group_id == aws_security_group.nodes.id
    ])
    error_message = "nodes do not reach each other on every port and protocol"
  }

  assert {
    condition = toset(one(jsondecode(aws_vpc_endpoint.s3.policy).Statement).Resource) == toset([
      "arn:aws:s3:::tokenfork-network-test", "arn:aws:s3:::tokenfork-network-test/*",
    ])
    error_message = "the gateway leads to other buckets"
  }

  assert {
    condition     = toset([for e in aws_vpc_endpoint.interface : e.service_name]) == toset([for s in ["pcs", "ssm", "ssmmessages"] : "com.amazonaws.us-east-1.${s}"])
    error_message = "interface endpoints: pcs, ssm, ssmmessages"
  }

  assert {
    condition     = alltrue([for e in aws_vpc_endpoint.interface : e.private_dns_enabled && length(e.subnet_ids) == 1])
    error_message = "an interface endpoint is not found by its usual name, or is paid for twice"
  }

  assert {
    condition = alltrue([
      for r in [
        aws_vpc_security_group_ingress_rule.nodes_among_themselves,
        aws_vpc_security_group_ingress_rule.endpoints_from_nodes,
      ] : r.referenced_security_group_id == aws_security_group.nodes.id && r.cidr_ipv4 == null && r.cidr_ipv6 == null
    ])
    error_message = "something other than the nodes may connect"
  }

  assert {
    condition = alltrue([
      for r in [
        aws_vpc_security_group_egress_rule.nodes_to_s3,
        aws_vpc_security_group_egress_rule.nodes_to_endpoints,
      ] : r.from_port == 443 && r.to_port == 443 && r.ip_protocol == "tcp" && r.cidr_ipv4 == null
    ])
    error_message = "nodes may connect to more than HTTPS of the endpoints"
  }

  assert {
    condition     = length(aws_default_security_group.this.ingress) == 0 && length(aws_default_security_group.this.egress) == 0
    error_message = "the default security group has rules"
  }
}

run "refused" {
  command = plan

  variables {
    cidr               = "10.0.0.0/24"
    availability_zones = ["us-east-1a", "us-east-1a"]
  }

  expect_failures = [var.cidr, var.availability_zones]
}
