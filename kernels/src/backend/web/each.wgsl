// The entry point of kernels with one thread a value: they define `each(i)`, which drops what lies beyond their values.

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    each((group.y * groups.x + group.x) * 256u + thread);
}
