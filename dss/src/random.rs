//! Randomness of the kernel, for what lives outside a node's life: ids of groups, and the runtime of production.

/// Fills `bytes` from the kernel's generator.
pub(crate) fn random_bytes(bytes: &mut [u8]) {
    let mut done = 0;
    while done < bytes.len() {
        // SAFETY: the pointer and length describe the rest of `bytes`, which is ours to write.
        let count = unsafe { libc::getrandom(bytes[done..].as_mut_ptr().cast(), bytes.len() - done, 0) };
        if count > 0 {
            done += count as usize;
        } else {
            let error = std::io::Error::last_os_error();
            assert!(
                error.kind() == std::io::ErrorKind::Interrupted,
                "the kernel gives no randomness: {error}"
            );
        }
    }
}
