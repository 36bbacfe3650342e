// The one way that an access goes: is it aligned, is it inside live memory, count it, is it ordered. The last only in
// programs with a source compiled as checked. pc: where in the code it returns to.
#pragma once

namespace rnnfast::emulate {

void check_access(const void* p, int bytes, bool write, const void* pc);
void check_atomic(const void* p, int bytes, bool write, const void* pc);  // unordered only with plain accesses
void begin_copy(const void* to, const void* from, int bytes, int valid, const void* pc);
void end_copy(const void* to, int bytes, const void* pc);  // it is there, for the thread that waited

}  // namespace rnnfast::emulate
