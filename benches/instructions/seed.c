/* Gives every hash map of Rust's standard library the same seed; see gate.py. */
#include <string.h>
#include <sys/types.h>

ssize_t getrandom(void *buffer, size_t length, unsigned int flags)
{
	(void)flags;
	memset(buffer, 7, length);
	return (ssize_t)length;
}
