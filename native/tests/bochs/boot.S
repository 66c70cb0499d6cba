// The first sector of a disk: load the program behind it, enter long mode with AVX-512 and tiles switched on, call it.
//
// SECTORS is how many sectors the program has. It is read to 0x10000, below the 640 KB that real mode reaches.
.code16
.globl _start
_start:
  cli
  xor %ax, %ax
  mov %ax, %ds
  mov %ax, %es
  mov %ax, %ss
  mov $0x7c00, %sp

  // 64 sectors at a time: int 13h, ah 42h reads what `packet` says.
  mov $(SECTORS + 63) / 64, %cx
read:
  mov $packet, %si
  mov $0x42, %ah
  mov $0x80, %dl
  int $0x13
  jc failed
  addw $64 * 512 / 16, packet_segment
  addl $64, packet_sector
  loop read

  cli // the BIOS has allowed interrupts, and there is no table of them
  // The first 64 MB as 2 MB pages: PML4 at 0x1000, PDPT at 0x2000, PD at 0x3000.
  mov $0x1000, %di
  mov $0x3000 / 2, %cx
  xor %ax, %ax
  rep stosw
  movl $0x2003, 0x1000
  movl $0x3003, 0x2000
  mov $0x3000, %di
  mov $0x83, %eax
  mov $32, %cx
page:
  mov %eax, (%di)
  add $0x200000, %eax
  add $8, %di
  loop page
  mov $0x1000, %eax
  mov %eax, %cr3
  mov $0x40620, %eax // PAE, OSFXSR, OSXMMEXCPT, OSXSAVE
  mov %eax, %cr4
  mov $0xc0000080, %ecx // EFER: LME
  rdmsr
  or $0x100, %eax
  wrmsr
  lgdtl descriptor
  mov %cr0, %eax
  and $0xfffffff3, %eax // no EM, no TS
  or $0x80000003, %eax  // PG, MP, PE
  mov %eax, %cr0
  ljmpl $8, $long_mode

failed:
  mov $0xe9, %dx
  mov $'!', %al
  out %al, %dx
  hlt

.align 8
table:
  .quad 0, 0x00209a0000000000, 0x0000920000000000
descriptor:
  .word 23
  .long table
packet:
  .byte 16, 0
  .word 64, 0
packet_segment:
  .word 0x1000
packet_sector:
  .quad 1

.code64
long_mode:
  mov $16, %ax
  mov %ax, %ds
  mov %ax, %es
  mov %ax, %ss
  mov $0x1f0000, %rsp
  xor %ecx, %ecx
  mov $0x600e7, %eax // x87, SSE, AVX, AVX-512, tiles
  xor %edx, %edx
  xsetbv
  mov $0x10000, %rax
  call *%rax
  mov $0x8900, %dx // Bochs ends when it reads this word here
  mov $shutdown, %rsi
1:
  lodsb
  test %al, %al
  jz 2f
  out %al, %dx
  jmp 1b
2:
  hlt
  jmp 2b
shutdown:
  .asciz "Shutdown"
.org 510
.word 0xaa55
