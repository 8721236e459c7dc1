// Kernels that are wrong, to see that the shim finds it.

KERNEL(64) writes_beyond(float* x) { x[threadIdx.x] = 1.0f; }

KERNEL(64) misses_a_barrier(float* x) {
    __shared__ float left[64];
    left[threadIdx.x] = x[threadIdx.x];
    x[threadIdx.x] = left[63 - threadIdx.x];
}

KERNEL(64) meets_in_two_places(float* x) {
    if (threadIdx.x < 32) sync_block();
    else block_any(true);
    x[threadIdx.x] = 1.0f;
}

KERNEL(64) leaves_a_barrier_out(float* x) {
    if (threadIdx.x < 32) sync_block();
    x[threadIdx.x] = 1.0f;
}

// Reads what it has not waited for: the memory it is copied to is not a number until then.
KERNEL(1) does_not_wait(float* x) {
    DYNAMIC_SHARED(memory);
    copy_async(shared_address(memory), x, true);
    copy_async_commit();
    x[0] = ((float*)memory)[0];
    copy_async_wait<0>();
}

KERNEL(64) overflows(int* x) { x[0] = 0x7fffffff + (int)blockDim.x; }
