    .code16
    .globl _start
_start:
    cli
    cld
    movw $0xf000, %ax
    movw %ax, %ds
    lgdtl %cs:(gdt_pointer - _start)
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    ljmpl $0x08, $(0xf0000 + protected - _start)

    .code32
protected:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $0x9000, %esp
    xorl %eax, %eax             # page tables at 0x10000: 1 GB, 2 MB pages, identity
    movl $0x10000, %edi
    movl $0xc00, %ecx
    rep stosl
    movl $0x11003, 0x10000
    movl $0x12003, 0x11000
    movl $0x12000, %edi
    movl $0x83, %eax
    movl $512, %ecx
1:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    decl %ecx
    jnz 1b
    movl %cr4, %eax
    orl $0x620, %eax            # PAE, OSFXSR, OSXMMEXCPT
    movl %eax, %cr4
    movl $0x10000, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx      # EFER: LME, SCE
    rdmsr
    orl $0x101, %eax
    wrmsr
    movl %cr0, %eax
    andl $0x9fffffff, %eax
    orl $0x80010002, %eax       # PG, WP, MP
    andl $~4, %eax
    movl %eax, %cr0
    ljmpl $0x18, $(0xf0000 + long - _start)

    .code64
long:
    movl $0x9000, %esp
    leaq fault(%rip), %rax      # IDT at 0x13000, entry 6: invalid opcode
    movl $0x13060, %edi
    movw %ax, (%rdi)
    movw $0x18, 2(%rdi)
    movw $0x8e00, 4(%rdi)
    shrq $16, %rax
    movw %ax, 6(%rdi)
    shrq $16, %rax
    movl %eax, 8(%rdi)
    movl $0, 12(%rdi)
    lidt idt_pointer(%rip)
    xorl %r12d, %r12d
    xorl %eax, %eax
    cpuid
    movl $0x10, %ecx            # the time-stamp counter, both ways
    rdmsr
    rdtsc
    movq $0x123456789abcdef, %rax
    movq %rax, %xmm0
    paddq %xmm0, %xmm0
    movl $0x200000, %edi        # a walk over 4 MB, with SSE stores
    movl $0x40000, %ecx
2:  movaps %xmm0, (%rdi)
    addq $16, %rdi
    decl %ecx
    jnz 2b
    ud2                         # comes back through the IDT
    cmpl $1, %r12d
    jne dead
    movq -16(%rdi), %rax
    movq $0x2468acf13579bde, %rbx
    cmpq %rax, %rbx
    jne dead
    movb $0x2a, %al
    outb %al, $0xf4
dead:
    hlt
    jmp dead
fault:
    incl %r12d
    addq $2, (%rsp)
    iretq

    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00af9b000000ffff
gdt_pointer:
    .word 31
    .long 0xf0000 + gdt - _start
idt_pointer:
    .word 0x6f
    .quad 0x13000
