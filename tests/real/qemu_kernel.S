/* A kernel that stores to each page from 4 to 40 MiB and then ends QEMU, by isa-debug-exit, with status 33. */
.code32
.align 4
.long 0x1BADB002, 0, -0x1BADB002 /* multiboot: magic, flags, checksum */
.globl _start
_start:
    mov $0x400000, %edi
1:  movl $1, (%edi)
    add $4096, %edi
    cmp $0x2800000, %edi
    jb 1b
    mov $0x10, %al
    out %al, $0xf4
2:  hlt
    jmp 2b
