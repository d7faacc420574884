output "cluster_id" {
  description = "PCS id of the cluster."
  value       = awscc_pcs_cluster.this.cluster_id
}

output "login_group_id" {
  description = "PCS id of the login node's group; its instance carries it as the tag aws:pcs:compute-node-group-id."
  value       = awscc_pcs_compute_node_group.this["login"].compute_node_group_id
}

output "ami_id" {
  description = "AMI of all nodes; set ami_id to it to keep it."
  value       = local.ami_id
}

output "partitions" {
  description = "Slurm partitions, the default one first."
  value       = sort(keys(awscc_pcs_queue.this))
}

output "gpus" {
  description = "GPUs of a node, by partition."
  value       = { for name in keys(var.node_groups) : name => sum(concat([0], [for g in data.aws_ec2_instance_type.this[name].gpus : g.count])) }
}
