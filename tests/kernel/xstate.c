/* Lets User-Mode Linux run on hosts with larger registers than it knows of (AMX: 11 KiB where it keeps 2.7).
 *
 * It restores the extended registers of its processes with ptrace(PTRACE_SETREGSET, NT_X86_XSTATE), and the host takes
 * only a whole set of them: with less it says EFAULT, and the guest's first process dies of SIGSEGV. Preloaded, this puts
 * what it was given over the whole set, as read from the process, and restores that.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

long ptrace(enum __ptrace_request request, ...) {
  static long (*real)(enum __ptrace_request, ...);
  static _Thread_local char whole[64 * 1024];
  va_list list;
  if (!real) real = (long (*)(enum __ptrace_request, ...))dlsym(RTLD_NEXT, "ptrace");
  va_start(list, request);
  int pid = va_arg(list, int);
  void *address = va_arg(list, void *);
  void *data = va_arg(list, void *);
  va_end(list);
  if (request == PTRACE_SETREGSET && address == (void *)NT_X86_XSTATE) {
    struct iovec *known = data;
    struct iovec all = {whole, sizeof whole};
    if (real(PTRACE_GETREGSET, pid, address, &all) == 0 && all.iov_len > known->iov_len) {
      memcpy(whole, known->iov_base, known->iov_len);
      return real(request, pid, address, &all);
    }
  }
  return real(request, pid, address, data);
}
